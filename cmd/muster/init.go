package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

func (a *app) initCommand() *cobra.Command {
	var url, keyFile string
	var recipients []string
	command := &cobra.Command{
		Use:   "init",
		Short: "Make a repository and its key file",
		Long: `Init makes an encrypted repository and writes its key file: the repository's password and the
key that signs recovery points. Credentials of an S3 server come from the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) or the instance's role.

The key file may exist already: a key can serve several repositories.`,
		Example: `  muster init --repository file:///srv/backup --key-file muster.key
  muster init --repository 's3://vault/prod?region=eu-west-1' --key-file muster.key --recipient age1…`,
		Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			document, err := repositoryDocument(url, keyFile, "")
			if err != nil {
				return err
			}
			key, made, err := keyOf(document.Spec.KeyFile, recipients)
			if err != nil {
				return err
			}
			if err := repository.Create(command.Context(), a.repositoryWith(document, key)); err != nil {
				return err
			}
			a.explainKey(document, key, made)
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&url, "repository", "", "file:///path or s3://bucket/prefix?endpoint=…&region=…&pathStyle=true&caFile=…")
	flags.StringVar(&keyFile, "key-file", "", "the key file to write, or to use when it exists")
	flags.StringArrayVar(&recipients, "recipient", nil, "age recipient that the key file is wrapped for (repeatable)")
	required(command, "repository", "key-file")
	return command
}

// keyOf reads the key file, or writes a new one where there is none.
func keyOf(path string, recipients []string) (key *repository.Key, made bool, err error) {
	if _, err := os.Stat(path); err == nil {
		key, err = repository.ReadKey(path, identityFiles())
		return key, false, err
	}
	if key, err = repository.NewKey(); err != nil {
		return nil, false, err
	}
	return key, true, key.WriteFile(path, recipients)
}

func (a *app) explainKey(document *plans.Repository, key *repository.Key, made bool) {
	fmt.Fprintf(a.out, "Repository %s is ready.\n", document.Spec.URL)
	if made {
		fmt.Fprintf(a.out, "\nThe key is in %s. WITHOUT THIS FILE THERE IS NO RECOVERY: nobody can read the\n"+
			"repository without it, and nobody can make it again. Keep copies away from the cluster\nand away from the repository.\n",
			document.Spec.KeyFile)
	}
	fmt.Fprintf(a.out, "\nPin the signing key in your Repository document:\n\n  publicKey: %s\n", key.PublicKey())
}

// required marks flags that must be given; cobra's own error is turned into a usage error.
func required(command *cobra.Command, names ...string) {
	command.PreRunE = func(command *cobra.Command, _ []string) error {
		for _, name := range names {
			if !command.Flags().Changed(name) {
				return fault.Newf("read arguments", fault.Invalid, "--"+name, "is required")
			}
		}
		return nil
	}
}
