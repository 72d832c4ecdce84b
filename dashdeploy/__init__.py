"""dashdeploy: compress a class-conditional diffusion model and deploy it with its guidance intact."""

__version__ = "0.1.0"
