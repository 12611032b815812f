"""Generated from proto/asof/v1 by scripts/generate_proto.py."""
