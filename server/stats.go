package server

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// stats counts what the databases of a fleet do together. There are no labels of
// databases: a thousand of them would be a thousand time series for each line.
type stats struct {
	pulls, pagesSent, longPolls                      atomic.Int64
	pipelines, statements, statementErrors, cursors  atomic.Int64
	refused, limited, timeouts                       atomic.Int64
	opened, checkpoints, forgotten                   atomic.Int64
	pipelineNanos, pullNanos                         atomic.Int64
	pullsNow, longPollsNow, pipelinesNow, streamsNow atomic.Int64
}

// now counts something while it lasts.
func now(v *atomic.Int64) (done func()) {
	v.Add(1)
	return func() { v.Add(-1) }
}

// taking adds the time until done is called.
func taking(v *atomic.Int64) (done func()) {
	begun := time.Now()
	return func() { v.Add(int64(time.Since(begun))) }
}

// metrics answers in Prometheus's text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
func (f *Fleet) metrics(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	st := f.stats
	gauge := func(name, help string, v int64) { metric(w, name, help, "gauge", float64(v)) }
	counter := func(name, help string, v int64) { metric(w, name, help, "counter", float64(v)) }
	seconds := func(name, help string, v *atomic.Int64) {
		metric(w, name, help, "counter", time.Duration(v.Load()).Seconds())
	}

	gauge("tursosync_databases_open", "Databases that are open.", int64(open))
	counter("tursosync_databases_opened_total", "Times that a database was opened.", st.opened.Load())
	gauge("tursosync_pulls", "Pulls that are being sent.", st.pullsNow.Load())
	counter("tursosync_pulls_total", "Pulls that were answered.", st.pulls.Load())
	counter("tursosync_pages_sent_total", "Pages sent by pulls.", st.pagesSent.Load())
	seconds("tursosync_pulls_seconds_total", "Time spent on pulls, waiting apart.", &st.pullNanos)
	gauge("tursosync_long_polls", "Pulls that wait for news.", st.longPollsNow.Load())
	counter("tursosync_long_polls_total", "Pulls that waited for news.", st.longPolls.Load())
	gauge("tursosync_pipelines", "Pipelines and cursors under way.", st.pipelinesNow.Load())
	counter("tursosync_pipelines_total", "Pipelines that were run.", st.pipelines.Load())
	counter("tursosync_cursors_total", "Cursors that were run.", st.cursors.Load())
	seconds("tursosync_pipelines_seconds_total", "Time spent on pipelines and cursors.", &st.pipelineNanos)
	counter("tursosync_statements_total", "Statements that were run.", st.statements.Load())
	counter("tursosync_statement_errors_total", "Statements that failed.", st.statementErrors.Load())
	gauge("tursosync_streams", "Interactive streams that are open.", st.streamsNow.Load())
	counter("tursosync_refused_total", "Requests refused for their token.", st.refused.Load())
	counter("tursosync_limited_total", "Requests refused by a limit.", st.limited.Load())
	counter("tursosync_timeouts_total", "Pipelines that took too long.", st.timeouts.Load())
	counter("tursosync_checkpoints_total", "Checkpoints.", st.checkpoints.Load())
	counter("tursosync_histories_forgotten_total", "Times that the history of a database had to begin anew, so that its replicas get all pages.", st.forgotten.Load())
}

func metric(w io.Writer, name, help, kind string, v float64) {
	_, _ = fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %g\n", name, help, name, kind, name, v)
}
