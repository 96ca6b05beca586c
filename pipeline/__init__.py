from pipeline.bytecode import mend_on_import

mend_on_import()
