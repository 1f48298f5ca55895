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
fuzz: ## every fuzz target, FUZZTIME each
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
	    echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

fmt:
	gofmt -w .
