"""Ask package archives, Python indexes and vendors, and download from them."""
