package steps

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// heldDatabase is a server whose writers wait.
type heldDatabase struct {
	*openDatabase
	hold *database.Hold
}

// databases are those whose writers wait; no pattern chooses none.
func (q VolumesQuiesce) databases(run *orchestrator.Run) ([]plans.Database, error) {
	if len(q.Databases) == 0 {
		return nil, nil
	}
	for _, pattern := range q.Databases {
		if found, err := chosenDatabases(run.Cluster, []string{pattern}); err != nil {
			return nil, err
		} else if len(found) == 0 {
			return nil, fault.Newf("check quiesce", fault.NotFound, pattern, "the Cluster document lists no such database")
		}
	}
	return chosenDatabases(run.Cluster, q.Databases)
}

// checkDatabases refuses databases that can't be held, before anything is.
func (s *CaptureVolumes) checkDatabases(run *orchestrator.Run) error {
	chosen, err := s.Quiesce.databases(run)
	if err != nil {
		return err
	}
	for _, d := range chosen {
		engine, err := database.Find(d.Engine, ownEngines(run))
		if err != nil {
			return err
		}
		if engine.Spec.Quiesce == "" {
			return fault.Newf("check quiesce", fault.Unsupported, d.Name, "engine %s can't keep writers waiting", d.Engine)
		}
	}
	if len(chosen) > 0 && s.Quiesce.within() < time.Second {
		return fault.Newf("check quiesce", fault.Invalid, run.Step, "within is less than a second")
	}
	return nil
}

// oneGroup refuses to hold databases anew for each of several groups: they would have no common instant.
func (s *CaptureVolumes) oneGroup(groups []string) error {
	if len(s.Quiesce.Databases) == 0 || len(groups) <= 1 {
		return nil
	}
	return fault.Newf("choose volumes", fault.Invalid, strings.Join(groups, ", "), "these are several groups, and the databases of quiesce are held for one: group by %s, or choose fewer volumes", volume.All)
}

// holdDatabases has the writers of all databases wait, or of none.
func (g *volumeGroup) holdDatabases(ctx context.Context) error {
	err := g.openDatabases(ctx)
	if err == nil {
		err = g.holdOpened(ctx)
	}
	if err != nil {
		_, failed := g.releaseDatabases()
		err = errors.Join(err, failed)
	}
	return err
}

// openDatabases does before a hold what takes time.
func (g *volumeGroup) openDatabases(ctx context.Context) error {
	chosen, err := g.Quiesce.databases(g.run)
	if err != nil {
		return err
	}
	for _, d := range chosen {
		engine, err := database.Find(d.Engine, ownEngines(g.run))
		if err != nil {
			return err
		}
		opened, err := connectDatabase(ctx, g.run, d, engine)
		if err != nil {
			return err
		}
		opened.Token = token(g.run, "quiesce "+d.Name) // scripts of two databases of one task don't end each other
		g.held = append(g.held, &heldDatabase{openDatabase: opened})
	}
	return nil
}

// holdOpened begins them at once: each waits while the others are asked.
func (g *volumeGroup) holdOpened(ctx context.Context) error {
	g.run.Progress.Status("quiesce databases of " + g.run.Item)
	failed := make([]error, len(g.held))
	var asked sync.WaitGroup
	for i, d := range g.held {
		asked.Go(func() { d.hold, failed[i] = d.Quiesce(ctx, g.Quiesce.within()) })
	}
	asked.Wait()
	return errors.Join(failed...)
}

// releaseDatabases lets all writers go on at once. It describes nothing when some did before.
func (g *volumeGroup) releaseDatabases() ([]repository.QuiescedDatabase, error) {
	layers, failed := make([]repository.QuiescedDatabase, len(g.held)), make([]error, len(g.held))
	var released sync.WaitGroup
	for i, d := range g.held {
		released.Go(func() {
			defer d.close()
			layers[i].Name, layers[i].Engine = d.Database.Name, d.Engine.Metadata.Name
			if d.hold != nil {
				layers[i].Facts, failed[i] = d.hold.Release()
			}
		})
	}
	released.Wait()
	g.held = nil
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	return layers, nil
}
