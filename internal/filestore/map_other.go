//go:build !(linux || darwin || freebsd)

package filestore

// mapFile maps nothing: not every system shows in a file what is stored in
// memory that is mapped to it.
func mapFile(file, int) []byte { return nil }

func unmapFile([]byte) {}
