// Package wire holds the messages of the two endpoints of Turso's sync
// protocol: protobuf on /pull-updates (PROTOCOL.md §2) and JSON, "SQL over
// HTTP", on /v2/pipeline (PROTOCOL.md §3).
//
// Everything here is a value and its two spellings. Decoders take bytes that
// anybody may have sent: they bound what they allocate, skip unknown fields,
// and return errors, never panic. What an answer means is decided elsewhere.
package wire

// Paths of the endpoints, appended to the remote's URL, and the media types
// that travel on them.
const (
	PullPath      = "/pull-updates"
	PipelinePath  = "/v2/pipeline"
	PipelineV3    = "/v3/pipeline"
	ProtobufMedia = "application/protobuf"
	JSONMedia     = "application/json"
)
