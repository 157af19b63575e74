"""``mamoe prepare captions`` and ``mamoe prepare instance-captions``."""
