import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.objectweb.asm.ClassReader;
import org.objectweb.asm.ClassWriter;
import org.objectweb.asm.Opcodes;
import org.objectweb.asm.commons.ClassRemapper;
import org.objectweb.asm.commons.Remapper;

/**
 * Packs classes with names that DEX and R8 take: {@code PlainNames OUTPUT.jar FOLDER…}.
 *
 * <p>Kotlin lets the names of tests be sentences, and puts these into the names of what is in them. Whatever else than
 * letters, digits, _ and $ is in a name becomes _.
 */
final class PlainNames extends Remapper {
    private PlainNames() {
        super(Opcodes.ASM9);
    }

    @Override
    public String mapMethodName(String owner, String name, String descriptor) {
        return name.startsWith("<") ? name : plain(name);
    }

    @Override
    public String map(String name) {
        return plain(name);
    }

    private static String plain(String name) {
        return name.replaceAll("[^\\p{Alnum}_$/-]", "_");
    }

    public static void main(String[] arguments) throws Exception {
        try (var zip = new ZipOutputStream(Files.newOutputStream(Path.of(arguments[0])))) {
            for (int index = 1; index < arguments.length; index++) {
                pack(Path.of(arguments[index]), zip);
            }
        }
    }

    private static void pack(Path folder, ZipOutputStream zip) throws Exception {
        try (var files = Files.walk(folder)) {
            for (var file : (Iterable<Path>) files.filter(each -> each.toString().endsWith(".class")).sorted()::iterator) {
                var writer = new ClassWriter(0);
                new ClassReader(Files.readAllBytes(file)).accept(new ClassRemapper(writer, new PlainNames()), 0);
                var name = plain(folder.relativize(file).toString().replace(".class", "")) + ".class";
                var entry = new ZipEntry(name);
                entry.setTimeLocal(LocalDateTime.of(1981, 1, 1, 1, 1, 2)); // the same bytes each time
                zip.putNextEntry(entry);
                zip.write(writer.toByteArray());
            }
        }
    }
}
