"""A preset's networks trained, tested and scored side by side on one GPU, on a machine that has torch but no Ray."""
