# Every target does its own set-up; `make` alone says what there is.
PYTHON := .venv/bin/python

help:
	@echo "make demo        set up, start xapi and boot a guest through XenAPI"
	@echo "make demo-stop   end the demo and remove everything it made"
	@echo "make test        set up and run every test"
	@echo "make check       format, lint, types, layers, generated files, unit and contract tests"
	@echo "make test-xen    the tests on real Xen, in an emulated machine (an hour)"
	@echo "make bench       measure each goal beside its floor"
	@echo "make deb         build the Debian packages into build/deb"
	@echo "make rpm         build the RPMs into build/rpm"
	@echo "make repository  sign the packages that were built and put them into build/repository"
	@echo "make test-packages  install, upgrade and purge the packages on emulated stock machines (half an hour)"
	@echo "make test-disks  the local SR over disks, on an emulated machine with the packages"
	@echo "make stubs       write the generated stubs again"

setup:
	@tools/setup

setup-test:
	@tools/setup test

demo: setup
	@$(PYTHON) tools/demo.py start

demo-stop: setup
	@$(PYTHON) tools/demo.py stop

check: setup-test
	@tools/gates

test: setup-test
	@tools/test

test-xen: setup-test
	@$(PYTHON) tools/test_xen.py

bench: setup-test
	@$(PYTHON) -m bench

deb:
	@tools/deb

rpm: setup-test
	@tools/rpm

repository:
	@tools/repository

test-packages: setup-test
	@$(PYTHON) tools/test_packages.py

test-disks: setup-test
	@$(PYTHON) tools/test_local_disks.py

stubs: setup
	@$(PYTHON) tools/stubs.py

.PHONY: help setup setup-test demo demo-stop check test test-xen bench deb rpm repository test-packages test-disks stubs
