"""The theory where it can be computed: linear models, channels."""
