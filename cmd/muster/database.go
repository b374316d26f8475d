package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

func (a *app) databaseCommand() *cobra.Command {
	command := group("database", "Databases: which engines there are, which databases run, and whether each can be captured")
	command.AddCommand(a.databaseEnginesCommand(), a.databaseCheckCommand(), a.databaseDiscoverCommand())
	return command
}

// databaseEngine is an engine and where its definition comes from.
type databaseEngine struct {
	Name string `json:"name"`
	From string `json:"from"` // built-in, or document
	// Problem says why a definition can't work.
	Problem string           `json:"problem,omitempty"`
	Spec    plans.EngineSpec `json:"spec"`
}

const (
	engineBuiltin  = "built-in"
	engineDocument = "document"
)

func (a *app) databaseEnginesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "engines [NAME]",
		Short:   "List the engines of databases, or show what one of them asks for",
		Example: "  muster database engines\n  muster database engines postgresql",
		Args:    atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := a.readDocuments()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return a.showEngine(set, args[0])
			}
			engines, err := enginesOf(set)
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = printJSON(a.out, engines)
			} else {
				err = a.printEngines(engines)
			}
			return errors.Join(err, unusable(engines))
		},
	}
}

// atMost wants n arguments or fewer.
func atMost(n int) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return exactly(n)(command, args)
	}
}

func ownEngines(set *plans.Set) []plans.Engine {
	var own []plans.Engine
	for _, name := range slices.Sorted(maps.Keys(set.Engines)) {
		own = append(own, *set.Engines[name])
	}
	return own
}

// enginesOf are all engines, by name, with what they extend.
func enginesOf(set *plans.Set) ([]databaseEngine, error) {
	builtin, err := database.Builtin()
	if err != nil {
		return nil, err
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(builtin)), maps.Keys(set.Engines))
	slices.Sort(names)
	all := []databaseEngine{}
	for _, name := range slices.Compact(names) {
		line := databaseEngine{Name: name, From: engineFrom(set, name)}
		engine, err := database.Find(name, ownEngines(set))
		if err != nil {
			line.Problem = err.Error()
		}
		line.Spec = engine.Spec
		all = append(all, line)
	}
	return all, nil
}

func engineFrom(set *plans.Set, name string) string {
	if set.Engines[name] != nil {
		return engineDocument
	}
	return engineBuiltin
}

func unusable(engines []databaseEngine) error {
	for _, engine := range engines {
		if engine.Problem != "" {
			return fault.Newf("list engines", fault.Invalid, engine.Name, "a definition can't work: see above")
		}
	}
	return nil
}

func (a *app) printEngines(engines []databaseEngine) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENGINE\tTITLE\tMODES\tLOGS\tVERSION\tFROM\tVERIFIED")
	for _, e := range engines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", e.Name, e.Spec.Title, strings.Join(slices.Sorted(maps.Keys(e.Spec.Modes)), " "),
			yesNo(e.Spec.Logs != nil), e.Spec.Definition, e.From, verifiedText(e.Spec))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, e := range engines {
		if e.Problem != "" {
			fmt.Fprintf(a.out, "\n%s: %s\n", e.Name, e.Problem)
		}
	}
	return nil
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func verifiedText(spec plans.EngineSpec) string {
	if spec.Unverified != "" {
		return "unverified: " + spec.Unverified
	}
	return "verified"
}

func (a *app) showEngine(set *plans.Set, name string) error {
	engine, err := database.Find(name, ownEngines(set))
	if err != nil {
		return err
	}
	e := databaseEngine{Name: name, From: engineFrom(set, name), Spec: engine.Spec}
	if a.output == "json" {
		return printJSON(a.out, e)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	found := e.Spec.Discover
	ports := make([]string, len(found.Ports))
	for i, port := range found.Ports {
		ports[i] = strconv.Itoa(port)
	}
	for _, line := range [][2]string{
		{"Engine", e.Name}, {"Title", e.Spec.Title}, {"Definition", fmt.Sprintf("version %d, %s, %s", e.Spec.Definition, e.From, verifiedText(e.Spec))},
		{"Logs", map[bool]string{true: "can be archived", false: "can't be archived"}[e.Spec.Logs != nil]}, {"Tools", strings.Join(e.Spec.Tools, " ")},
		{"Images", strings.Join(found.Images, " ")}, {"Ports", strings.Join(ports, " ")}, {"Operators", strings.Join(found.Operators, " ")},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	}
	fmt.Fprintln(w, "\nMODE\tWHAT IT IS")
	for _, mode := range slices.Sorted(maps.Keys(e.Spec.Modes)) {
		text := e.Spec.Modes[mode].Text
		if mode == e.Spec.Mode {
			text += " (default)"
		}
		fmt.Fprintf(w, "%s\t%s\n", mode, text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := a.printSettings("SETTING", e.Spec.Settings); err != nil {
		return err
	}
	return a.printSettings("SECRET", e.Spec.Secrets)
}

func (a *app) printSettings(title string, settings map[string]plans.EngineSetting) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\tDEFAULT\tWHAT IT IS\n", title)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		s := settings[name]
		standard := s.Default
		if s.Required {
			standard = "required"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, standard, s.Text)
	}
	return w.Flush()
}

// databaseCluster is a Cluster document with all DatabaseEngine documents.
func (a *app) databaseCluster(set *plans.Set, name string) (*plans.Cluster, error) {
	cluster, err := pick("Cluster", "--cluster", name, set.Clusters)
	if err != nil {
		return nil, err
	}
	whole := *cluster
	whole.Spec.Engines = ownEngines(set)
	return &whole, nil
}

// checkedDatabase is what `muster database check` tells of a database.
type checkedDatabase struct {
	Database string             `json:"database"`
	Engine   string             `json:"engine"`
	Mode     string             `json:"mode,omitempty"`
	Problems []database.Problem `json:"problems"`
}

func (a *app) databaseCheckCommand() *cobra.Command {
	mode, name := "", ""
	command := &cobra.Command{
		Use:     "check [NAME...]",
		Short:   "Find what would make a backup of the Cluster document's databases fail, or be less than it seems",
		Long:    "Check reaches each database as backup-databases does, and looks. Nothing is changed. What is of kind info has only\nto be known; the exit code is that of the most severe other kind.",
		Example: "  muster database check -f muster.yaml\n  muster database check shop/ledger --mode physical",
		RunE: func(command *cobra.Command, args []string) error {
			set, err := a.readDocuments()
			if err != nil {
				return err
			}
			cluster, err := a.databaseCluster(set, name)
			if err != nil {
				return err
			}
			names, err := chosenDatabases(cluster, args)
			if err != nil {
				return err
			}
			all := []checkedDatabase{}
			for _, d := range names {
				all = append(all, checkOne(command.Context(), cluster, d, mode))
			}
			if a.output == "json" {
				err = printJSON(a.out, all)
			} else {
				err = a.printChecked(all)
			}
			return errors.Join(err, mostSevere(all))
		},
	}
	command.Flags().StringVar(&mode, "mode", "", "the engine's mode (default: the engine's own choice)")
	command.Flags().StringVar(&name, "cluster", "", "the Cluster document, where there are several")
	return command
}

// chosenDatabases are the databases of the names, all without any.
func chosenDatabases(cluster *plans.Cluster, names []string) ([]plans.Database, error) {
	all := cluster.Spec.Databases
	if len(all) == 0 {
		return nil, fault.Newf("check databases", fault.NotFound, "Cluster "+cluster.Metadata.Name, "it lists none under spec.databases; `muster database discover` proposes some")
	}
	if len(names) == 0 {
		return all, nil
	}
	var chosen []plans.Database
	for _, name := range names {
		i := slices.IndexFunc(all, func(d plans.Database) bool { return d.Name == name })
		if i < 0 {
			return nil, fault.Newf("check databases", fault.NotFound, name, "Cluster %s lists no such database", cluster.Metadata.Name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// checkOne looks at one database. That it could not look is a problem too.
func checkOne(ctx context.Context, cluster *plans.Cluster, d plans.Database, mode string) checkedDatabase {
	c := checkedDatabase{Database: d.Name, Engine: d.Engine, Problems: []database.Problem{}}
	taken, problems, err := steps.CheckDatabase(ctx, cluster, d.Name, mode)
	c.Mode, c.Problems = taken, append(c.Problems, problems...)
	if err != nil {
		c.Problems = append(c.Problems, database.Problem{Kind: fault.KindOf(err).String(), Subject: d.Name, Text: err.Error()})
	}
	return c
}

func (a *app) printChecked(all []checkedDatabase) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATABASE\tENGINE\tMODE\tKIND\tSUBJECT\tTEXT")
	for _, c := range all {
		if len(c.Problems) == 0 {
			fmt.Fprintf(w, "%s\t%s\t%s\twell\n", c.Database, c.Engine, c.Mode)
		}
		for _, p := range c.Problems {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Database, c.Engine, c.Mode, p.Kind, printable(p.Subject), printable(p.Text))
		}
	}
	return w.Flush()
}

// severities are the kinds from the worst on: what is damaged, what a person has to change, what passes by itself.
func severities() []fault.Kind {
	return []fault.Kind{
		fault.Corrupt, fault.NoSpace, fault.Internal, fault.Denied, fault.Unsupported, fault.Invalid, fault.NotFound, fault.Exists, fault.Busy, fault.Transient,
	}
}

// mostSevere is an error of the worst kind among the problems, nil where there is nothing but info.
func mostSevere(all []checkedDatabase) error {
	kinds := map[fault.Kind]bool{}
	var names []string
	for _, c := range all {
		for _, p := range c.Problems {
			if p.Kind == "info" {
				continue
			}
			kinds[fault.ParseKind(p.Kind)] = true
			if !slices.Contains(names, c.Database) {
				names = append(names, c.Database)
			}
		}
	}
	for _, kind := range severities() {
		if kinds[kind] {
			return fault.Newf("check databases", kind, strings.Join(names, ", "), "a backup would fail, or be less than it seems: see above")
		}
	}
	return nil
}
