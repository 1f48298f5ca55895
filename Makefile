.PHONY: test ci quickstart bench fuzz fmt

test: ## what README.md says
	go test ./...

ci: ## the whole gate
	.ci/run

quickstart:
	go run ./examples/quickstart

bench: ## both sides in one run, ratios printed; see bench/README.md
	go test -run '^$$' -bench . ./bench/...

FUZZTIME ?= 30s
fuzz: ## every fuzz target, FUZZTIME each, with a report: .tools/fuzz-report.txt
	FUZZTIME=$(FUZZTIME) .ci/fuzz

fmt:
	gofmt -w .
