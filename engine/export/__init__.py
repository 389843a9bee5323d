"""Export of trained models to files for other runtimes: what a model provides, the formats, and the comparison."""
