// A CometBFT validator with its application in the same process, for the side-by-side of bench/comet.py.
//
//	comet-node layout --out DIR --nodes 4 --base-port N   homes of a chain's validators, stock settings, on 127.0.0.1
//	comet-node start --home DIR [--connsync] [--signed]   one of them, until it is killed
//	comet-node versions                                   what this was built from, as JSON
//
// Must not know: what the settings under test are. The harness writes them into config.toml, where CometBFT reads them.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/viper"

	"github.com/cometbft/cometbft/abci/example/kvstore"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/libs/cli/flags"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/types"
	cmttime "github.com/cometbft/cometbft/types/time"
	"github.com/cometbft/cometbft/version"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: comet-node layout|start|versions"))
	}
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "layout":
		fail(layout(arguments))
	case "start":
		fail(start(arguments))
	case "versions":
		fail(json.NewEncoder(os.Stdout).Encode(map[string]string{"go": runtime.Version(), "cometbft": version.TMCoreSemVer}))
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "comet-node:", err)
		os.Exit(1)
	}
}

// layout does what `cometbft testnet` does, with a port of its own for each node instead of an address of its own.
// Node i listens on base + 2i for its peers and on base + 2i + 1 for clients.
func layout(arguments []string) error {
	set := flag.NewFlagSet("layout", flag.ExitOnError)
	out := set.String("out", "", "folder in which node0, node1, ... are made")
	nodes := set.Int("nodes", 4, "validators")
	base := set.Int("base-port", 26600, "first of two ports a node")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	genesis := types.GenesisDoc{
		ChainID: "bench", GenesisTime: cmttime.Now(), InitialHeight: 1, ConsensusParams: types.DefaultConsensusParams(),
	}
	homes, peers := make([]string, *nodes), make([]string, *nodes)
	for i := range homes {
		homes[i] = filepath.Join(*out, fmt.Sprintf("node%d", i))
		settings := config.DefaultConfig().SetRoot(homes[i])
		config.EnsureRoot(homes[i])
		validator := privval.LoadOrGenFilePV(settings.PrivValidatorKeyFile(), settings.PrivValidatorStateFile())
		public, err := validator.GetPubKey()
		if err != nil {
			return err
		}
		genesis.Validators = append(genesis.Validators, types.GenesisValidator{
			Address: public.Address(), PubKey: public, Power: 1, Name: filepath.Base(homes[i]),
		})
		key, err := p2p.LoadOrGenNodeKey(settings.NodeKeyFile())
		if err != nil {
			return err
		}
		peers[i] = p2p.IDAddressString(key.ID(), fmt.Sprintf("127.0.0.1:%d", *base+2*i))
	}
	for i, home := range homes {
		settings := config.DefaultConfig().SetRoot(home)
		if err := genesis.SaveAs(settings.GenesisFile()); err != nil {
			return err
		}
		settings.Moniker = filepath.Base(home)
		settings.P2P.ListenAddress = fmt.Sprintf("tcp://127.0.0.1:%d", *base+2*i)
		settings.RPC.ListenAddress = fmt.Sprintf("tcp://127.0.0.1:%d", *base+2*i+1)
		settings.P2P.PersistentPeers = strings.Join(peers, ",")
		settings.P2P.AddrBookStrict = false // all of them share one address
		settings.P2P.AllowDuplicateIP = true
		config.WriteConfigFile(filepath.Join(home, "config", "config.toml"), settings)
	}
	return nil
}

// start does what `cometbft start` does.
func start(arguments []string) error {
	set := flag.NewFlagSet("start", flag.ExitOnError)
	home := set.String("home", "", "what layout made")
	connsync := set.Bool("connsync", false, "a lock for each ABCI connection instead of one for all")
	signed := set.Bool("signed", false, "check an Ed25519 signature for every transaction")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	settings, err := load(*home)
	if err != nil {
		return err
	}
	logger, err := flags.ParseLogLevel(settings.LogLevel, log.NewTMLogger(log.NewSyncWriter(os.Stdout)), config.DefaultLogLevel)
	if err != nil {
		return err
	}
	store := kvstore.NewPersistentApplication(settings.DBDir())
	var app abci.Application = store
	if *signed {
		app = newSignedStore(store)
	}
	creator := proxy.NewLocalClientCreator
	if *connsync {
		creator = proxy.NewConnSyncLocalClientCreator
	}
	key, err := p2p.LoadNodeKey(settings.NodeKeyFile())
	if err != nil {
		return err
	}
	validator := privval.LoadFilePV(settings.PrivValidatorKeyFile(), settings.PrivValidatorStateFile())
	running, err := node.NewNode(
		settings, validator, key, creator(app), node.DefaultGenesisDocProviderFunc(settings), config.DefaultDBProvider,
		node.DefaultMetricsProvider(settings.Instrumentation), logger,
	)
	if err != nil {
		return err
	}
	if err := running.Start(); err != nil {
		return err
	}
	select {} // the harness kills it, and it dies with the harness
}

func load(home string) (*config.Config, error) {
	settings := config.DefaultConfig().SetRoot(home)
	viper.SetConfigFile(filepath.Join(home, "config", "config.toml"))
	if err := viper.ReadInConfig(); err != nil {
		return nil, err
	}
	if err := viper.Unmarshal(settings); err != nil {
		return nil, err
	}
	return settings.SetRoot(home), settings.ValidateBasic()
}
