// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/image"
)

// cache is the group of commands for what is compiled.
func (p Program) cache() *cli.Command {
	return group("cache", "look at compiled artifacts in containerd, and remove them", p.cacheList(), p.cacheRemove())
}

func (p Program) cacheList() *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list the artifacts",
		UsageText: `cache ls [OPTIONS]

cache ls
cache ls -n k8s.io --json`,
		Description: `Listed is what engines have compiled, of all engines whose shims share this
library, in one namespace of containerd. SOURCE is the digest of the layer or
file that it was made of; IMAGES are those that keep it: when they are removed,
containerd removes it as well.`,
		Flags: containerdFlags(&cli.BoolFlag{Name: "json", Usage: "print one JSON object"}),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &usageError{fmt.Sprintf("cache ls takes no arguments, found %q", c.Args().First())}
			}
			return withContainerd(c, func(ctx context.Context, s *session) error {
				listed, err := s.cached(ctx)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, listed)
				}
				return listed.print(c.App.Writer, time.Now())
			})
		},
	}
}

type cached struct {
	Artifacts []cachedArtifact `json:"artifacts"`
	Size      int64            `json:"size"` // of all, on disk, in bytes
}

type cachedArtifact struct {
	image.Kept
	Images []string `json:"images"` // that keep it
}

func (s *session) cached(ctx context.Context) (*cached, error) {
	all, err := s.Artifacts(ctx)
	if err != nil {
		return nil, err
	}
	listed := &cached{Artifacts: []cachedArtifact{}}
	if len(all) == 0 {
		return listed, nil
	}
	users, err := s.users(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		listed.Artifacts = append(listed.Artifacts, cachedArtifact{k, namesOf(k, users)})
	}
	listed.Size = sizeOf(all)
	return listed, nil
}

// sizeOf is how much disk space artifacts take, in bytes: what came out of
// different code, and is the same, takes it once.
func sizeOf(list []image.Kept) (size int64) {
	seen := map[digest.Digest]bool{}
	for _, k := range list {
		if !seen[k.Digest] {
			size += k.Size
		}
		seen[k.Digest] = true
	}
	return size
}

// users are the names of images by the blobs that keep artifacts.
func (s *session) users(ctx context.Context) (map[digest.Digest][]string, error) {
	images, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	users := map[digest.Digest][]string{}
	for _, i := range images {
		blobs, err := s.BlobsOf(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		for _, b := range blobs {
			users[b] = append(users[b], i.Name)
		}
	}
	return users, nil
}

func namesOf(k image.Kept, users map[digest.Digest][]string) []string {
	names := []string{}
	for _, b := range k.Blobs {
		names = append(names, users[b]...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (l *cached) print(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush has the error
	if len(l.Artifacts) > 0 {
		line("DIGEST\tENGINE\tSIZE\tAGE\tSOURCE\tIMAGES")
	}
	for _, a := range l.Artifacts {
		names := "-"
		if len(a.Images) > 0 {
			names = plain(strings.Join(a.Images, " "))
		}
		line("%s\t%s\t%s\t%s\t%s\t%s", shortDigest(string(a.Digest)), plain(a.Engine), progress.Bytes(a.Size), age(now, a.Created), shortDigest(string(a.Source)), names)
	}
	line("%s, %s", count(len(l.Artifacts), "artifact"), progress.Bytes(l.Size))
	return w.Flush()
}

func (p Program) cacheRemove() *cli.Command {
	return &cli.Command{
		Name:  "rm",
		Usage: "remove artifacts",
		UsageText: `cache rm [OPTIONS] --all
cache rm [OPTIONS] IMAGE|DIGEST...

cache rm docker.io/library/hello:latest
cache rm 1f4a9c 0b27dd
cache rm -n k8s.io --all`,
		Description: `A DIGEST is an artifact's or its source's, in full or its first digits, as in
"cache ls": at least 6 of them. An IMAGE stands for all artifacts that it keeps,
also if other images keep them as well.

The next start of a container that needs one makes it anew. Containers that run
are not affected.`,
		Flags: containerdFlags(&cli.BoolFlag{Name: "all", Usage: "remove all artifacts of the namespace, of all engines"}),
		Action: func(c *cli.Context) error {
			switch {
			case c.Bool("all") && c.Args().Present():
				return &usageError{fmt.Sprintf("cache rm: found --all and %q, accepted: one of them", c.Args().First())}
			case !c.Bool("all") && !c.Args().Present():
				return &usageError{"cache rm needs IMAGE or DIGEST, or --all; see cache rm --help"}
			}
			return withContainerd(c, func(ctx context.Context, s *session) error {
				all, err := s.Artifacts(ctx)
				if err != nil {
					return err
				}
				remove := all
				if !c.Bool("all") {
					if remove, err = s.chosen(ctx, all, c.Args().Slice()); err != nil {
						return err
					}
				}
				if err := s.RemoveArtifacts(ctx, remove); err != nil {
					return err
				}
				return reportRemoved(c.App.Writer, all, remove)
			})
		},
	}
}

// chosen are the artifacts that arguments name, each once.
func (s *session) chosen(ctx context.Context, all []image.Kept, args []string) ([]image.Kept, error) {
	var list []image.Kept
	for _, arg := range args {
		found, err := byDigest(all, arg)
		if err != nil {
			return nil, err
		}
		if found == nil {
			if found, err = s.byImage(ctx, all, arg); err != nil {
				return nil, err
			}
		}
		for _, k := range found {
			if !slices.ContainsFunc(list, k.Is) {
				list = append(list, k)
			}
		}
	}
	return list, nil
}

// minPrefix is how many digits a digest must have to be one.
const minPrefix = 6

// byDigest are the artifacts whose digest begins so, or else whose source's does;
// nil if there is none. All that are found have the same digest.
func byDigest(all []image.Kept, arg string) ([]image.Kept, error) {
	prefix := strings.TrimPrefix(arg, "sha256:")
	if len(prefix) < minPrefix || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, nil
	}
	for _, of := range []func(image.Kept) digest.Digest{
		func(k image.Kept) digest.Digest { return k.Digest },
		func(k image.Kept) digest.Digest { return k.Source },
	} {
		var found []image.Kept
		for _, k := range all {
			if !strings.HasPrefix(string(of(k)), "sha256:"+prefix) {
				continue
			}
			if len(found) > 0 && of(found[0]) != of(k) {
				return nil, fmt.Errorf("%s: found %s and %s, accepted: more digits, of one of them", arg, of(found[0]), of(k))
			}
			found = append(found, k)
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, nil
}

func (s *session) byImage(ctx context.Context, all []image.Kept, name string) ([]image.Kept, error) {
	i, err := s.image(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%s: no artifact has such a digest, and %w", plain(name), err)
	}
	blobs, err := s.BlobsOf(ctx, i)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", i.Name, err)
	}
	found := image.KeptBy(blobs, all)
	if found == nil {
		return nil, fmt.Errorf("image %s has no artifacts", i.Name)
	}
	return found, nil
}

// reportRemoved says what was removed of all artifacts, and how much disk space
// is free now.
func reportRemoved(out io.Writer, all, removed []image.Kept) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range removed {
		_, _ = fmt.Fprintf(w, "removed %s\t%s\t%s\tof %s\n", k.Digest, plain(k.Engine), progress.Bytes(k.Size), shortDigest(string(k.Source))) // Flush has the error
	}
	remaining := slices.DeleteFunc(slices.Clone(all), func(k image.Kept) bool { return slices.ContainsFunc(removed, k.Is) })
	_, _ = fmt.Fprintf(w, "%s, %s\n", count(len(removed), "artifact"), progress.Bytes(sizeOf(all)-sizeOf(remaining)))
	return w.Flush()
}
