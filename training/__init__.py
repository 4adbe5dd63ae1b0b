"""The pipeline: corpus -> fit -> calibrate -> evaluate -> track -> export -> package.

Run from the checkout: `python -m training --help`.
"""
