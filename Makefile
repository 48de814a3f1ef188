# The sessions of noxfile.py through make. make itself exits 2 whatever failed; the code is in its last line
# ("Error 1"), and `nox -s ...` exits with it.
#
#   make regress ARGS="--set train-iters=60"      what is in ARGS goes behind nox's "--"

# python3, or another one where the pins do not support it.
PYTHON ?= $(shell python3 nox_python.py 2>/dev/null)
NEEDED_NOX := 2025.2.9
# A PYTHON that is given decides, whatever nox is on PATH; .venv is made anew for another one than it was made with.
GIVEN := $(filter-out file,$(firstword $(origin PYTHON)))
MADE_WITH := $(shell cat .venv/made-with 2>/dev/null)
OTHER := $(if $(GIVEN)$(MADE_WITH),$(if $(filter $(PYTHON),$(MADE_WITH)),,other-python))
PATH_NOX := $(if $(GIVEN),,$(shell v=$$(nox --version 2>&1 | grep -x '[0-9.]*') && [ "$$(printf '%s\n' $(NEEDED_NOX) "$$v" | sort -V | head -n 1)" = $(NEEDED_NOX) ] && command -v nox))
NOX := $(or $(PATH_NOX),.venv/bin/nox)
SESSIONS := regress record tests lint doctor clean

.PHONY: help other-python $(SESSIONS)

help: ## List the targets
	@echo "make regress   train every case that fits this machine, restart it, compare every step:"
	@echo "               ARGS=\"--list\" which there are, ARGS=\"--jobs 2\" two at once, ARGS=\"--rerun-failed\""
	@echo "make tests     lint, unit tests, then one full main job"
	@echo "make lint      ruff, and the linter for golden cards"
	@echo "make record    write a golden card from three equal runs: ARGS=\"gpt3_pp4_resume --reason why\""
	@echo "make doctor    what this machine is, what can run here, what is missing"
	@echo "make clean     remove old run directories: ARGS=\"--keep 5\""

$(SESSIONS): $(NOX)
	@$(NOX) -s $@ $(if $(ARGS),-- $(ARGS))

# In an environment of its own: a Python that its distribution manages is left alone.
.venv/bin/nox: requirements.txt $(OTHER)
	@command -v "$(or $(PYTHON),python3)" >/dev/null || { echo "make: there is no $(or $(PYTHON),python3): install Python 3.10 to 3.13, or call make PYTHON=/path/to/python3.13" >&2; exit 5; }
	@"$(or $(PYTHON),python3)" nox_python.py --own
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv), or install nox" >&2; exit 5; }
	@echo "make: $(if $(GIVEN),for $(PYTHON) the pinned nox,no nox on PATH; the pinned one) is installed into .venv"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt nox
	@echo "$(PYTHON)" > .venv/made-with
	@touch $@
