"""Maps of photographs by networks that read them."""
