import de.bwaldvogel.mongo.MongoBackend;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;
import java.util.Set;

/**
 * A server that speaks MongoDB's wire protocol: Launcher PORT [FILE]. Port 0 takes a free one; without a file the data
 * are in memory. Prints "ready PORT", and ends when its standard input does, so that it never outlives the tests.
 */
public final class Launcher {
    private static final Set<String> READS =
            Set.of("find", "aggregate", "count", "getMore", "hello", "isMaster", "ismaster", "ping", "listIndexes",
                    "listCollections", "endSessions", "killCursors");

    /** Keeps a write in the file before it is acknowledged, as a journal would. */
    private static final class Durable extends H2Backend {
        Durable(String file) {
            super(file);
        }

        @Override
        public Document handleMessage(MongoMessage message) {
            Document reply = super.handleMessage(message);
            if (!READS.contains(message.getDocument().keySet().iterator().next())) {
                commit();
            }
            return reply;
        }
    }

    /** The driver refuses servers whose wire version is below 9. */
    private static final class Version implements MongoVersion {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 9;
        }
    }

    public static void main(String[] arguments) throws Exception {
        // With more threads, a reply may be encoded while another caller changes its document.
        System.setProperty("io.netty.eventLoopThreads", "1");
        MongoBackend backend = arguments.length > 1 ? new Durable(arguments[1]) : new MemoryBackend();
        backend.version(new Version());
        MongoServer server = new MongoServer(backend);
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
        System.out.println("ready " + server.getLocalAddress().getPort());
        while (System.in.read() >= 0) {
            continue;
        }
        server.shutdownNow();
        System.exit(0);
    }
}
