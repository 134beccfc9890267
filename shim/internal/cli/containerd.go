// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/imagefile"
)

const (
	defaultAddress   = "/run/containerd/containerd.sock"
	defaultNamespace = "default"

	// answerTimeout is how long containerd may take to answer at all.
	answerTimeout = 10 * time.Second
)

// containerdFlags are those of every command that speaks to containerd.
func containerdFlags(more ...cli.Flag) []cli.Flag {
	return append(more,
		&cli.StringFlag{Name: "address", Aliases: []string{"a"}, EnvVars: []string{"CONTAINERD_ADDRESS"}, Value: defaultAddress, Usage: "containerd's socket, a `PATH`"},
		&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, EnvVars: []string{"CONTAINERD_NAMESPACE"}, Value: defaultNamespace, Usage: "the `NAMESPACE` in containerd; Kubernetes uses k8s.io"},
	)
}

// session is a connection to a containerd that has answered.
type session struct {
	image.Store
}

// withContainerd does something with the containerd that a command line names.
// The context ends when the command is interrupted.
func withContainerd(c *cli.Context, do func(ctx context.Context, s *session) error) error {
	address, namespace, err := whichContainerd(c)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	s, err := connect(ctx, address, namespace, answerTimeout)
	if err == nil {
		err = errors.Join(do(ctx, s), s.Close())
	}
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// interruptible is for what cleans up when it is interrupted.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

func whichContainerd(c *cli.Context) (address, namespace string, _ error) {
	address = strings.TrimPrefix(cmp.Or(c.String("address"), defaultAddress), "unix://")
	if !filepath.IsAbs(address) {
		return "", "", &usageError{fmt.Sprintf("--address: found %q, accepted: the absolute path of a socket, like %s", address, defaultAddress)}
	}
	// The daemon knows containerd by the name in its configuration, which has no
	// link: /var/run is one on most machines.
	if real, err := filepath.EvalSymlinks(address); err == nil {
		address = real
	}
	namespace = cmp.Or(c.String("namespace"), defaultNamespace)
	if identifiers.Validate(namespace) != nil {
		return "", "", &usageError{fmt.Sprintf("--namespace: found %q, accepted: up to 76 letters and digits, with single . _ - between them", namespace)}
	}
	return address, namespace, nil
}

// connect fails within a time if no containerd answers.
func connect(ctx context.Context, address, namespace string, within time.Duration) (*session, error) {
	store, err := image.Dial(address, namespace)
	if err != nil {
		return nil, err
	}
	if err := store.Ping(ctx, within); err != nil {
		help := "say --address if it listens elsewhere"
		if errors.Is(err, fs.ErrPermission) {
			help = "run this as root"
		}
		return nil, errors.Join(fmt.Errorf("containerd at %s does not answer: %w; %s", address, err, help), store.Close())
	}
	return &session{store}, nil
}

// image finds an image by the name that containerd has, or by a short one.
func (s *session) image(ctx context.Context, name string) (containerd.Image, error) {
	found, err := s.Get(ctx, name)
	if errdefs.IsNotFound(err) {
		if full := fullName(name); full != "" && full != name {
			found, err = s.Get(ctx, full)
		}
	}
	if errdefs.IsNotFound(err) {
		return found, fmt.Errorf("image %s is not in containerd's namespace %s: pull or import it, or say --namespace; Kubernetes uses k8s.io", plain(name), s.Namespace)
	}
	return found, err
}

// fullName completes an image's name as containerd's clients do; empty if it is
// none.
func fullName(name string) string {
	if _, err := imagefile.ParseTag(strings.SplitN(name, "@", 2)[0]); err != nil {
		return ""
	}
	return containerd.FullName(name)
}

// oneImage is the argument of a command that takes one image.
func oneImage(c *cli.Context) (string, error) {
	switch c.NArg() {
	case 0:
		return "", &usageError{fmt.Sprintf("%s needs the IMAGE; see %[1]s --help", commandName(c))}
	case 1:
		return c.Args().First(), nil
	}
	return "", tooMany(c, 1)
}

// tooMany says which argument is one too many.
func tooMany(c *cli.Context, accepted int) error {
	text := fmt.Sprintf("%s: found the argument %q, accepted: %d", commandName(c), c.Args().Get(accepted), accepted)
	if strings.HasPrefix(c.Args().Get(accepted), "-") {
		text += "; options come before the arguments"
	}
	return &usageError{text}
}

// commandName is a command with its group, as a person types it.
func commandName(c *cli.Context) string {
	_, name, _ := strings.Cut(c.Command.HelpName, " ")
	return name
}

// group is a command that only has others.
func group(name, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name:        name,
		Usage:       usage,
		UsageText:   name + " COMMAND [OPTIONS]",
		Subcommands: commands,
		Action: func(c *cli.Context) error {
			wrong := c.Args().First()
			if wrong == "" {
				return cli.ShowSubcommandHelp(c)
			}
			text := fmt.Sprintf("unknown command %q.", name+" "+wrong)
			if s := cli.SuggestCommand(c.Command.Subcommands, wrong); s != "" {
				text += " " + s
			}
			return &usageError{text + " See " + name + " --help."}
		},
	}
}

// plain is text from an image as a terminal may get it.
func plain(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

// shortDigest is what tells digests apart in a table.
func shortDigest(d string) string {
	_, hex, found := strings.Cut(d, ":")
	if !found || len(hex) < 12 {
		return cmp.Or(plain(d), "-")
	}
	return hex[:12]
}

// age is how long ago something was, roughly.
func age(now, then time.Time) string {
	d := max(now.Sub(then), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// count is a number of things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func printJSON(out io.Writer, v any) error { return json.NewEncoder(out).Encode(v) }
