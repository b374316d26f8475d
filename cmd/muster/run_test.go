package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRepeat(t *testing.T) {
	diagnostics, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{diagnostics: diagnostics}
	ctx, interrupt := context.WithCancel(t.Context())
	runs, interrupted := 0, errors.New("interrupted")
	err = a.repeat(ctx, time.Millisecond, func(context.Context) error {
		runs++
		switch runs {
		case 1:
			return errors.New("the server is away")
		case 3:
			interrupt()
			return interrupted
		}
		return nil
	})
	text, _ := os.ReadFile(diagnostics.Name())
	if runs != 3 || !errors.Is(err, interrupted) || !strings.Contains(string(text), "the server is away") {
		t.Errorf("%d runs, %v, said %q", runs, err, text)
	}
}
