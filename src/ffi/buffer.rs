//! Bytes written in place and views of other objects' memory.
