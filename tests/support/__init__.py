"""Shared test support: loop flavours, leak checks, peers, child programs."""
