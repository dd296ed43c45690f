//! Small hosts that prove the world before production machines enter it.
