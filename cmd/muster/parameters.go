package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/musterdr/muster/plans"
)

// parameters is the flag --set name=value, as often as it is given.
type parameters []plans.Setting

func (p *parameters) register(flags *pflag.FlagSet) {
	flags.Var(p, "set", "value of a parameter of the plan (repeatable; a list is a,b,c)")
}

// Set implements pflag.Value.
func (p *parameters) Set(text string) error {
	setting, err := plans.ParseSetting(text)
	if err == nil {
		*p = append(*p, setting)
	}
	return err
}

// Type implements pflag.Value.
func (p *parameters) Type() string { return "name=value" }

// String implements pflag.Value.
func (p *parameters) String() string {
	names := make([]string, 0, len(*p))
	for _, setting := range *p {
		names = append(names, setting.Name)
	}
	return strings.Join(names, ", ")
}
