// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/doctor"
	"github.com/libwasmshim/libwasmshim/shim/internal/installer"
)

func installFlags() []cli.Flag {
	return []cli.Flag{
		containerdFlags()[0],
		&cli.StringFlag{Name: "root", Value: "/", Usage: "where the host's root directory is, a `PATH`; for a container with the host's process ids"},
		&cli.StringFlag{Name: "dir", Value: "/usr/local/bin", Usage: "the `DIRECTORY` on the host for the program; it has to be in containerd's PATH"},
		&cli.BoolFlag{Name: "dry-run", Usage: "only say what would be done"},
	}
}

func (p Program) install() *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "put this program and containerd's configuration onto a host",
		UsageText: `install [OPTIONS]

install --dry-run
install
install --root /host`,
		Description: `The program goes into a directory of containerd's PATH, the runtime into the
configuration that this containerd reads: its conf.d (2.2 and later), or its file,
of which a copy is kept. What containerd does not understand is taken back. Then
containerd is restarted, if the configuration was changed and systemd has it, and
doctor is run. Containers go on. Doing it again changes nothing.

k3s and RKE2 find the runtime wasmtime by themselves. Where the configuration
belongs to the host alone (MicroK8s, Talos, Bottlerocket), it is printed.`,
		Flags: append(installFlags(), &cli.BoolFlag{Name: "stay", Usage: "stay until SIGTERM, and uninstall then, unless containers run; for a DaemonSet"}),
		Action: func(c *cli.Context) error {
			ended, stop := interruptible()
			defer stop()
			err := p.onHost(c, func(ctx context.Context, h *installer.Host, r installer.Runtime, dir string) error {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find this program's file: %w", err)
				}
				if err := h.Install(ctx, r, self, dir); err != nil || h.DryRun {
					return err
				}
				if h.Pending {
					_, err := fmt.Fprintf(c.App.Writer, "then: %s doctor\n", p.name())
					return err
				}
				return p.consult(ctx, c, h, filepath.Join(dir, r.Program))
			})
			if err != nil || !c.Bool("stay") {
				return err
			}
			<-ended.Done()
			stop()                       // a second signal ends this process
			return p.onHost(c, takeAway) // of a containerd that was started anew meanwhile
		},
	}
}

func (p Program) uninstall() *cli.Command {
	return &cli.Command{
		Name:  "uninstall",
		Usage: "take away what install has put onto a host",
		UsageText: `uninstall [OPTIONS]

uninstall --dry-run
uninstall`,
		Description: `As long as containers of the runtime run, nothing is removed: for their end
containerd executes the program.`,
		Flags: installFlags(),
		Action: func(c *cli.Context) error {
			return p.onHost(c, takeAway)
		},
	}
}

func takeAway(ctx context.Context, h *installer.Host, r installer.Runtime, dir string) error {
	return h.Uninstall(ctx, r, dir)
}

// onHost does something with the host and the containerd that the flags name.
func (p Program) onHost(c *cli.Context, do func(context.Context, *installer.Host, installer.Runtime, string) error) error {
	if c.Args().Present() {
		return &usageError{fmt.Sprintf("%s takes no arguments, found %q", commandName(c), c.Args().First())}
	}
	for _, flag := range []string{"root", "dir"} {
		if !filepath.IsAbs(c.String(flag)) {
			return &usageError{fmt.Sprintf("--%s: found %q, accepted: an absolute path", flag, c.String(flag))}
		}
	}
	root := filepath.Clean(c.String("root"))
	address, namespace, err := whichContainerd(c)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	s, err := connect(ctx, filepath.Join(root, address), namespace, answerTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	version, err := s.Version(ctx)
	if err != nil {
		return err
	}
	pid, err := s.Pid(ctx)
	if err != nil {
		return err
	}
	r := installer.Runtime{Name: p.ShimName, Type: p.runtime(), Program: p.name(), Config: p.runtimeConfig}
	h := &installer.Host{Root: root, Containerd: doctor.OpenDaemon(pid, version), DryRun: c.Bool("dry-run"), Out: c.App.Writer}
	return do(ctx, h, r, c.String("dir"))
}

// runtimeConfig is what config prints, without the version.
func (p Program) runtimeConfig(version int) (string, error) {
	var text strings.Builder
	if err := p.printConfig(&text, version); err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(text.String(), "\n")
	return strings.TrimLeft(rest, "\n"), nil
}

// consult runs the doctor that was installed, where it was.
func (p Program) consult(ctx context.Context, c *cli.Context, h *installer.Host, program string) error {
	cmd := exec.CommandContext(ctx, program, "doctor", "--address", c.String("address"))
	cmd.Stdout, cmd.Stderr = c.App.Writer, c.App.ErrWriter
	if h.Root != "/" {
		cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Chroot: h.Root}, "/"
	}
	if err := cmd.Run(); err != nil {
		if errors.As(err, new(*exec.ExitError)) {
			return errors.New("installed, and there is a problem; see above")
		}
		return fmt.Errorf("run %s doctor: %w", program, err)
	}
	return nil
}
