package steps

import (
	"cmp"
	"context"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/shell"
)

// PodChoice names a container. It must hold sh, and needs no other program.
type PodChoice struct {
	Namespace string `yaml:"namespace,omitempty"` // default "default"
	Name      string `yaml:"name,omitempty"`
	// Selector chooses the first ready pod, by name, with these labels: "app=db,role=primary".
	Selector string `yaml:"selector,omitempty"`
	// Container is by default the one that the pod names as its default, else its first.
	Container string `yaml:"container,omitempty"`
}

// runInPod runs in the pod of before, when it is still there, else in the one that the choice finds.
func runInPod(ctx context.Context, run *orchestrator.Run, choice PodChoice, before commandPlace, script shell.Script) (commandPlace, int, error) {
	client, err := clusterClient(ctx, run)
	if err != nil {
		return commandPlace{}, 0, err
	}
	defer client.Close()
	query := cluster.PodQuery{
		Namespace: cmp.Or(choice.Namespace, "default"), Name: cmp.Or(before.Pod, choice.Name), Selector: choice.Selector, Container: choice.Container,
	}
	pod, container, err := client.FindPod(ctx, query)
	if err != nil && choice.Name == "" && before.Pod != "" { // it has gone since
		query.Name = ""
		pod, container, err = client.FindPod(ctx, query)
	}
	if err != nil {
		return commandPlace{}, 0, err
	}
	place := commandPlace{On: InPod, Namespace: query.Namespace, Pod: pod, Container: container}
	code, err := shell.Pod{Client: client, Namespace: query.Namespace, Name: pod, Container: container}.Run(ctx, script)
	return place, code, err
}
