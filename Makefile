# Each target sets up what it needs: a virtual environment in .venv with the package and its tools, made by pip alone.
# PYTHON=python3.12 chooses the interpreter; ARGS="..." goes to what the target runs, to the first program if there are
# two of them (demo, torture).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := $(VENV)/.installed-peers

.PHONY: help demo start test test-kafka chaos-groups chaos-queue torture full-load check format docs bench bench-guard bench-growth bench-peers clean

help:
	@echo "make demo    run the main job on real input: stream a text, kill the broker midway, compare every line"
	@echo "make start   run a broker on tcp://127.0.0.1:9292 with its data in ./zmqbroker-data"
	@echo "make test    run the tests, in random order"
	@echo "make test-kafka  Kafka's clients and, fetched from Maven Central, its Java tools and broker; takes mvn and java"
	@echo "make chaos-groups  members of a consumer group join, leave, die and hang, for five minutes with each assignor"
	@echo "make chaos-queue   a queue of 1,000,000 records; two of eight workers crash again and again, the broker once"
	@echo "make torture  three nodes are killed, hung, cut off, and their disks fail, under load: nothing may be lost"
	@echo "make full-load  half an hour of full load on three nodes without a fault: no leader may change, nothing be lost"
	@echo "make check   lint, format and types: ruff, mypy --strict, pyright"
	@echo "make bench   measure the figures this project is held to"
	@echo "make bench-guard   hold what a record costs on each part of its way against committed limits; under a minute"
	@echo "make bench-growth  how cost grows with partitions, clients, sizes, nodes and time; ARGS=--write-docs: docs/growth.md"
	@echo "make bench-peers  the same work by Kafka, Redis, NATS and RabbitMQ, side by side; names what is missing here"
	@echo "make format  let ruff put the code into shape"
	@echo "make docs    write docs/settings.md from the table in settings.py"
	@echo "make clean   remove the virtual environment and everything that was built"

# The stamp is only as old as pyproject.toml, so that a change of dependencies installs them, and nothing else does.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("zmqbroker needs Python 3.11 or newer; choose one with PYTHON=..." \
	  if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(ARGS)
	$(BIN)/python examples/demo_cluster.py

start: $(STAMP)
	$(BIN)/zmqbroker start $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

test-kafka: $(STAMP)
	mvn -q -f tests/kafka_tools/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/kafka-libs
	KAFKA_LIBS=$(CURDIR)/build/kafka-libs $(BIN)/python -m pytest --timeout=300 tests/gateway tests/kafka_tools $(ARGS)

chaos-groups: $(STAMP)
	$(BIN)/python tests/faults/group_chaos.py $(ARGS)

chaos-queue: $(STAMP)
	$(BIN)/python tests/faults/queue_chaos.py $(ARGS)

torture: $(STAMP)
	$(BIN)/python tests/faults/torture.py --verbose $(ARGS)
	$(BIN)/python tests/faults/failover.py

full-load: $(STAMP)
	$(BIN)/python tests/faults/failover.py --no-kills --seconds 1800 $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -c "from zmqbroker.settings import settings_markdown; print(settings_markdown(), end='')" > docs/settings.md

bench: $(STAMP)
	$(BIN)/python bench/run.py $(ARGS)

bench-guard: $(STAMP)
	$(BIN)/python bench/guard/run.py $(ARGS)

bench-growth: $(STAMP)
	$(BIN)/python bench/growth/run.py $(ARGS)

# A peer that cannot be had is named by the benchmark with the reason, so nothing that fails here ends the run.
$(PEERS): pyproject.toml $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[peers]' && touch $@ \
	  || echo "not all of the peers' Python clients could be installed"

bench-peers: $(PEERS)
	mvn -q -f tests/kafka_tools/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/kafka-libs \
	  || echo "Kafka's jars could not be fetched"
	KAFKA_LIBS=$(CURDIR)/build/kafka-libs $(BIN)/python bench/peers/run.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
