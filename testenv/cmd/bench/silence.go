package main

import (
	"log/slog"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/state/journal"
)

// silence takes progress and events, and shows nothing.
type silence struct{}

func (silence) Total(int64, int64)             {}
func (silence) Add(int64, int64)               {}
func (silence) Status(string)                  {}
func (silence) Report(orchestrator.Finding)    {}
func (silence) Journaled(journal.Event)        {}
func (silence) Progressed(orchestrator.Update) {}
func (silence) Replayed([]journal.Event)       {}

func noLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
