"""Models by name: the embedded teacher, local directories, hub names; and the student made from a teacher."""
