package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	err := api.Stop()
	if shared.lab != nil {
		err = errors.Join(err, shared.lab.Down(context.Background()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
