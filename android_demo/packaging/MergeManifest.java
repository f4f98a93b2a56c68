import com.android.manifmerger.ManifestMerger2;
import com.android.manifmerger.ManifestMerger2.Invoker.Feature;
import com.android.manifmerger.ManifestMerger2.MergeType;
import com.android.manifmerger.ManifestSystemProperty;
import com.android.manifmerger.MergingReport;
import com.android.utils.StdLogger;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Calls Google's merger of manifests as the Android plugin for Gradle does:
 * {@code MergeManifest APPLICATION|LIBRARY NAMESPACE MAIN.xml OUTPUT.xml [PROPERTY=VALUE | LIBRARY.xml]…}.
 *
 * <p>The merger's own command line makes applications only, and takes no namespace. A library keeps what it tells the
 * merger by {@code tools:}, so that it holds in the application; properties are those of ManifestSystemProperty.
 */
final class MergeManifest {
    public static void main(String[] arguments) throws Exception {
        var logger = new StdLogger(StdLogger.Level.ERROR);
        var type = MergeType.valueOf(arguments[0]);
        var merger = ManifestMerger2.newMerger(new File(arguments[2]), logger, type).setNamespace(arguments[1]);
        if (type == MergeType.APPLICATION) {
            merger.withFeatures(Feature.REMOVE_TOOLS_DECLARATIONS);
        }
        for (int index = 4; index < arguments.length; index++) {
            var property = arguments[index].split("=", 2);
            if (property.length == 2) {
                merger.setOverride(ManifestSystemProperty.valueOf(property[0]), property[1]);
            } else {
                merger.addLibraryManifest(new File(arguments[index]));
            }
        }
        var report = merger.merge();
        report.log(logger);
        if (report.getResult().isError()) {
            System.exit(1);
        }
        var merged = report.getMergedDocument(MergingReport.MergedManifestKind.MERGED);
        Files.writeString(Path.of(arguments[3]), merged);
    }
}
