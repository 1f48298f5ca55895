.PHONY: test ci quickstart bench fuzz soak mutants fmt

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

SOAK_MINUTES ?= 10
soak: ## everything random, for so long; the report is .tools/soak-report.txt
	.ci/soak $(SOAK_MINUTES)

mutants: ## deliberate bugs, one at a time: the tests must find each
	go run ./internal/mutants

fmt:
	gofmt -w .
