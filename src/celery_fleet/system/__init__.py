"""Programs that systemd or root starts on a host with the system's Python; standard library only.

``launch`` and ``stop`` run as the unit's user. ``hand_back``, ``ended``, ``exec`` and ``release_command`` start as
root.
"""
