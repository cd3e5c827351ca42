import java.io.IOException;
import org.codelibs.opensearch.runner.OpenSearchRunner;

/** One OpenSearch node on 127.0.0.1. Arguments: HTTP port, transport port, data folder. SIGTERM closes it. */
public final class SearchServer {
  public static void main(String[] arguments) throws InterruptedException {
    String httpPort = arguments[0];
    String transportPort = arguments[1];
    String folder = arguments[2];
    OpenSearchRunner runner = new OpenSearchRunner();
    runner.onBuild((number, settings) -> {
      settings.put("http.port", httpPort);
      settings.put("transport.port", transportPort);
      settings.put("network.host", "127.0.0.1");
      settings.put("discovery.type", "single-node");
      settings.put("cluster.routing.allocation.disk.threshold_enabled", false);
      settings.put("path.repo", folder + "/repository");
      settings.putList("node.roles", "cluster_manager", "data", "ingest");
    });
    // Without it, the runner looks for a port of its own choice.
    runner.setMaxHttpPort(-1);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> close(runner)));
    runner.build(OpenSearchRunner.newConfigs().basePath(folder).numOfNode(1).clusterName("lucid-local"));
    // The node's own threads do not keep the process alive.
    Thread.currentThread().join();
  }

  private static void close(OpenSearchRunner runner) {
    try {
      runner.close();
    } catch (IOException error) {
      System.err.println("The node did not close in good order: " + error);
    }
  }
}
