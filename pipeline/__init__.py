import importlib

# by name, because it changes no result: an edit of it must not rerun every stage
importlib.import_module("pipeline.bytecode").mend_on_import()
