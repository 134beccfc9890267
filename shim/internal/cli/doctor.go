// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/doctor"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
)

// trialTimeout is how long the trial's container may take on a machine that is slow.
const trialTimeout = time.Minute

// doctor says why containers do not run.
func (p Program) doctor() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look for what keeps containers from running, and say what to do",
		UsageText: `doctor [OPTIONS]

doctor
doctor --address /run/k3s/containerd/containerd.sock --json
doctor --metrics`,
		Description: `Looked at are this machine, containerd, its configuration and the compile cache; a
guest that says hello is run in a container, which is then removed. Each line is "ok", a "note" or a "problem", with what to do about it.
The exit code is 1 if there is a problem.

With --metrics nothing is looked for: printed is what shims of all namespaces have
counted since this machine was started (compilations, what failed, what was refused),
and what the cache has.`,
		Flags: containerdFlags(
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object"},
			&cli.BoolFlag{Name: "metrics", Usage: "print numbers, in the text format of Prometheus"},
		),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &usageError{fmt.Sprintf("doctor takes no arguments, found %q", c.Args().First())}
			}
			if c.Bool("json") && c.Bool("metrics") {
				return &usageError{"doctor: found --json and --metrics, accepted: one of them"}
			}
			if c.Bool("metrics") {
				return p.metrics(c)
			}
			address, namespace, err := whichContainerd(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible()
			defer stop()
			found, err := p.examine(ctx, address, namespace)
			if err != nil {
				return err
			}
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return found.report(c.App.Writer, c.Bool("json"))
		},
	}
}

type findings struct {
	Findings []doctor.Finding `json:"findings"`
	Problems int              `json:"problems"`
}

func (l *findings) add(list ...doctor.Finding) {
	l.Findings = append(l.Findings, list...)
	for _, f := range list {
		if f.State == doctor.Problem {
			l.Problems++
		}
	}
}

func (p Program) examine(ctx context.Context, address, namespace string) (*findings, error) {
	found := &findings{}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	found.add(doctor.Finding{About: "engine", State: doctor.OK, Found: p.engine() + ", shim " + ReadBuild().Version})
	found.add(doctor.Machine()...)
	s, err := connect(ctx, address, namespace, answerTimeout)
	if err != nil {
		found.add(doctor.Binary(p.name(), self, ""), doctor.Finding{About: "containerd", State: doctor.Problem, Found: err.Error(), Do: "start containerd, or say --address"})
		return found, nil
	}
	defer func() { _ = s.Close() }()
	version, err := s.Version(ctx)
	if err != nil {
		return nil, err
	}
	pid, err := s.Pid(ctx)
	if err != nil {
		return nil, err
	}
	daemon := doctor.OpenDaemon(pid, version)
	brief, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	found.add(doctor.Binary(p.name(), self, daemon.Path), daemon.Release(), daemon.Runtime(brief, p.ShimName, p.runtime(), p.name()))
	found.add(snapshotters(brief, s), cacheSize(brief, s))
	if p.Engine.Kinds&entrypoint.Module != 0 {
		slow, cancel := context.WithTimeout(ctx, trialTimeout)
		defer cancel()
		found.add(doctor.Trial(slow, s.Try, p.runtime()))
	}
	return found, nil
}

// snapshotters are those that work.
func snapshotters(ctx context.Context, s *session) doctor.Finding {
	f := doctor.Finding{About: "snapshotters", State: doctor.OK}
	all, err := s.Plugins(ctx, "io.containerd.snapshotter.v1")
	if err != nil {
		f.State, f.Found = doctor.Problem, err.Error()
		return f
	}
	var working []string
	for _, plugin := range all {
		if plugin.Failure == "" {
			working = append(working, plugin.ID)
		}
	}
	f.Found = strings.Join(working, ", ")
	if len(working) == 0 {
		f.State, f.Found, f.Do = doctor.Problem, "containerd has none that works", "see containerd's log; overlayfs needs a file system that it can lie on"
	}
	return f
}

// cacheSize is what is compiled in all namespaces.
func cacheSize(ctx context.Context, s *session) doctor.Finding {
	f := doctor.Finding{About: "compile cache", State: doctor.OK}
	byNamespace, err := everyArtifact(ctx, s)
	if err != nil {
		f.State, f.Found = doctor.Problem, err.Error()
		return f
	}
	all := slices.Concat(slices.Collect(maps.Values(byNamespace))...)
	f.Found = fmt.Sprintf("%s, %s", count(len(all), "artifact"), progress.Bytes(sizeOf(all)))
	return f
}

// everyArtifact is what is compiled, by namespace.
func everyArtifact(ctx context.Context, s *session) (map[string][]image.Kept, error) {
	names, err := s.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string][]image.Kept{}
	for _, name := range names {
		one := *s.Client
		one.Namespace = name
		if all[name], err = (image.Store{Client: &one}).Artifacts(ctx); err != nil {
			return nil, fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return all, nil
}

func (l *findings) report(out io.Writer, asJSON bool) error {
	if asJSON {
		if err := printJSON(out, l); err != nil {
			return err
		}
	} else if err := l.print(out); err != nil {
		return err
	}
	if l.Problems > 0 {
		return errors.New(count(l.Problems, "problem"))
	}
	return nil
}

func (l *findings) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range l.Findings {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", f.State, f.About, f.Found) // Flush has the error
		if f.Do != "" {
			_, _ = fmt.Fprintf(w, "\t\t→ %s\n", f.Do)
		}
	}
	return w.Flush()
}
