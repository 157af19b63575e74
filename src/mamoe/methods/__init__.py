"""Ways of fine-tuning a UNet: what is added to it, which of its weights train, and how that comes off again."""
