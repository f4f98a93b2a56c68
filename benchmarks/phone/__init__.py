"""How fast a GGUF runs on the phone in your hand, over adb; nothing is installed there, no Python is needed there.

``__main__`` is the command, ``job`` its steps, ``device`` what a phone says of itself, ``adb`` the way to it, and
``watch.sh`` the part that runs there.
"""
