package rpc

import "runtime/debug"

// Version is that of the provider's program, as its build tells; "dev" when it tells none.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}
