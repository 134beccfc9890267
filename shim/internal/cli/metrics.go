// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/metrics"
)

// metrics prints what shims have counted, which needs no containerd, and then what the
// cache has, which does.
func (p Program) metrics(c *cli.Context) error {
	address, _, err := whichContainerd(c)
	if err != nil {
		return err
	}
	counted, err := image.Counted(address)
	if err != nil {
		return err
	}
	if err := metrics.Print(c.App.Writer, counted); err != nil {
		return err
	}
	return withContainerd(c, func(ctx context.Context, s *session) error {
		kept, err := keptByEngine(ctx, s)
		if err != nil {
			return err
		}
		return metrics.PrintKept(c.App.Writer, kept)
	})
}

func keptByEngine(ctx context.Context, s *session) (list []metrics.Kept, _ error) {
	byNamespace, err := everyArtifact(ctx, s)
	if err != nil {
		return nil, err
	}
	for name, all := range byNamespace {
		byEngine := map[string][]image.Kept{}
		for _, k := range all {
			byEngine[k.Engine] = append(byEngine[k.Engine], k)
		}
		for engine, own := range byEngine {
			list = append(list, metrics.Kept{Namespace: name, Engine: engine, Artifacts: len(own), Bytes: sizeOf(own)})
		}
	}
	slices.SortFunc(list, func(x, y metrics.Kept) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Engine, y.Engine))
	})
	return list, nil
}
