"""The composition root: the only package that knows every other and unpacks the configuration."""
