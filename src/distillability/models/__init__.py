"""Loading models and rendering text for them."""
