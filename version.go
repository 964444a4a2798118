package ssefanin

import (
	"runtime/debug"
	"slices"
	"sync"
)

// ownVersion returns the version of this module that the program was built with;
// empty if it was built from a checkout.
var ownVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	m := &info.Main // of this repository's own programs
	if i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == modulePath }); i >= 0 {
		m = info.Deps[i]
	} else if m.Path != modulePath {
		return ""
	}
	if m.Replace != nil {
		m = m.Replace
	}
	if m.Version == "(devel)" {
		return ""
	}
	return m.Version
})
