"""Public maps of the Moon: Moon Mineralogy Mapper, Lunar Prospector, and global maps such as LOLA's."""

from __future__ import annotations

import lazy_loader

# Names and their modules are in the stub beside this file; a module loads when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
