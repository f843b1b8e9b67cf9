"""What the tests share: loop flavours, leak checks, peers, child programs."""
