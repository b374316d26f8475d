package testenv

import (
	"context"
)

// Install makes sure that Debian packages are on this machine. One installs at a time.
func Install(ctx context.Context, packages ...string) error {
	_, unlock, err := newBuilder(func(string, ...any) {})
	if err != nil {
		return err
	}
	defer unlock()
	return install(ctx, packages...)
}
