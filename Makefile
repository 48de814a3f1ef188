# The sessions of noxfile.py through make. make itself exits 2 whatever failed; the code is in its last line
# ("Error 1"), and `nox -s ...` exits with it.
#
#   make regress ARGS="--set train-iters=60"      what is in ARGS goes behind nox's "--"

# python3, or another one where the pins do not support it.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell python3 nox_python.py 2>/dev/null)
endif
NEEDED_NOX := 2025.2.9
# A PYTHON that is given decides, whatever nox is on PATH; .venv is made anew for another one than it was made with.
GIVEN := $(filter-out file,$(firstword $(origin PYTHON)))
MADE_WITH := $(shell cat .venv/made-with 2>/dev/null)
OTHER := $(if $(GIVEN)$(MADE_WITH),$(if $(subst x$(PYTHON),,x$(MADE_WITH))$(subst x$(MADE_WITH),,x$(PYTHON)),other-python))
# A word for the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'
PATH_NOX := $(if $(GIVEN),,$(shell v=$$(nox --version 2>&1 | grep -x '[0-9.]*') && [ "$$(printf '%s\n' $(NEEDED_NOX) "$$v" | sort -V | head -n 1)" = $(NEEDED_NOX) ] && echo nox))
# Not .venv/bin/nox: the first line of that script cannot name every path.
NOX := $(or $(PATH_NOX),.venv/bin/python -m nox)
OWN_NOX := $(if $(PATH_NOX),,.venv/bin/nox)
CASES := $(patsubst test_cases/%/model_config.yaml,%,$(wildcard test_cases/*/model_config.yaml))
SESSIONS := regress record tests lint check doctor clean $(CASES)

# Refused before anything runs: words that make would take for further targets, and variables that nothing reads.
SURPLUS := $(filter-out help other-python .venv/bin/nox $(SESSIONS),$(MAKECMDGOALS))
NAMES := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNREAD := $(foreach name,$(filter-out ARGS PYTHON,$(NAMES)),$(name)=$($(name)))
FIRST := $(or $(firstword $(filter $(SESSIONS),$(MAKECMDGOALS))),regress)
MEANT := $(firstword $(filter $(CASES),$(foreach name,$(NAMES),$($(name)))) CASE)
ifneq ($(filter -%,$(SURPLUS) $(UNREAD)),)
$(error options of a session go into ARGS; type: make $(FIRST) ARGS="$(strip $(filter-out $(FIRST),$(MAKECMDGOALS)) $(UNREAD))")
else ifneq ($(UNREAD),)
$(error nothing reads $(UNREAD); for one case type: make $(MEANT), for several: make regress ARGS="--only $(MEANT) --only CASE")
else ifneq ($(SURPLUS),)
$(error there is no target $(firstword $(SURPLUS)); type: make help, or for the cases: make regress ARGS="--list")
endif

.PHONY: help other-python $(SESSIONS)

help: ## List the targets
	@echo "make regress   train every case that fits this machine, restart it, compare every step:"
	@echo "               ARGS=\"--list\" which there are, ARGS=\"--jobs 2\" two at once, ARGS=\"--rerun-failed\""
	@echo "make tests     lint, unit tests, then one full main job"
	@echo "make CASE      one case by its name: make gpt3_pp4_resume, ARGS=\"--set train-iters=60\""
	@echo "make check     read all cases and golden cards, run nothing: ARGS=\"gpt3_pp4\" one case"
	@echo "make lint      ruff, then check"
	@echo "make record    write a golden card from three equal runs: ARGS=\"gpt3_pp4_resume --reason why\""
	@echo "make doctor    what this machine is, what can run here, what is missing"
	@echo "make clean     remove old run directories: ARGS=\"--keep 5\""

$(SESSIONS): $(OWN_NOX)
	@$(NOX) -s $@ $(if $(ARGS),-- $(ARGS))

# In an environment of its own: a Python that its distribution manages is left alone.
.venv/bin/nox: PYTHON_WORD = $(call quoted,$(or $(PYTHON),python3))
.venv/bin/nox: requirements.txt $(OTHER)
	@command -v $(PYTHON_WORD) >/dev/null || { echo make: there is no $(PYTHON_WORD): "install Python 3.10 to 3.13, or call make PYTHON=/path/to/python3.13" >&2; exit 5; }
	@$(PYTHON_WORD) nox_python.py --own
	@$(PYTHON_WORD) -c 'import venv, ensurepip' 2>/dev/null || { echo make: $(PYTHON_WORD) "has no venv module: install it (Debian, Ubuntu: apt install python3-venv), or install nox" >&2; exit 5; }
	@[ -w . ] || { echo "make: this checkout cannot be written: copy it, or make it writable" >&2; exit 5; }
	@echo make: $(if $(GIVEN),for $(PYTHON_WORD) "the pinned nox",no nox on PATH\; the pinned one) is installed into .venv
	@rm -rf .venv
	@$(PYTHON_WORD) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt nox
	@echo $(PYTHON_WORD) > .venv/made-with
	@touch $@
