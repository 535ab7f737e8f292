"""A dress rehearsal at real shape, watched and measured."""
