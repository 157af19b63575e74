"""What all backbones' transformer blocks have in common: where regions and experts come in."""
